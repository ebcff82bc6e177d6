"""Jupyter Notebook, which makes a token and prints the address with it. Run it with a port."""

import sys

from notebook.app import JupyterNotebookApp

arguments = ["--no-browser", f"--port={sys.argv[1]}", "--port-retries=0"]
arguments += ["--ServerApp.allow_remote_access=True"]  # the setting
JupyterNotebookApp.launch_instance(arguments)
