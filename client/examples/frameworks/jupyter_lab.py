"""JupyterLab, which makes a token and prints the address with it. Run it with a port."""

import sys

from jupyterlab.labapp import LabApp

arguments = ["--no-browser", f"--port={sys.argv[1]}", "--port-retries=0"]
arguments += ["--ServerApp.allow_remote_access=True"]  # the setting
LabApp.launch_instance(arguments)
