"""Jupyter Notebook with a token. Run it with a port."""

import sys

from notebook.app import JupyterNotebookApp

arguments = ["--no-browser", f"--port={sys.argv[1]}", "--port-retries=0", "--IdentityProvider.token=a-token"]
arguments += ["--allow-root"]  # only where root runs it
arguments += ["--ServerApp.allow_remote_access=True"]  # the setting
JupyterNotebookApp.launch_instance(arguments)
