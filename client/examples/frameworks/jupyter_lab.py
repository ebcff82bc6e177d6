"""JupyterLab with a token. Run it with a port."""

import sys

from jupyterlab.labapp import LabApp

arguments = ["--no-browser", f"--port={sys.argv[1]}", "--port-retries=0", "--IdentityProvider.token=a-token"]
arguments += ["--allow-root"]  # only where root runs it
arguments += ["--ServerApp.allow_remote_access=True"]  # the setting
LabApp.launch_instance(arguments)
