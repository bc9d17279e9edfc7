# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""memcarve inside Volatility 3: what the plugins windows.segments and linux.segments share.

Volatility finds the kernel, the processes, their regions, and opens the container; memcarve walks the page tables and
moves the bytes. The plugins import these modules, and with them numpy, when they run: ``vol`` imports all plugins
whenever it starts.
"""
