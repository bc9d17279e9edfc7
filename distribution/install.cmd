@cd /d "%~dp0" && py -m venv --without-pip "%USERPROFILE%\memcarve" || exit /b 1
@for %%p in (wheels\pip-*.whl) do @"%USERPROFILE%\memcarve\Scripts\python" %%p\pip install -q --no-index --find-links wheels "memcarve[@EXTRAS@]"
