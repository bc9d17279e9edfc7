"""memcarve as a worker of OpenRelik: tasks of Celery that take memory images and give back what is in them.

`tasks` has what OpenRelik calls; `once` sees to it that a task which is delivered twice does its work once; `fan_out`
cuts large images into a sub-task a process. All work is done in a process of its own (`running`, which begins `job`),
where `work` calls memcarve: what goes wrong there ends that process alone.
"""
