"""A Streamlit page with a field and a file. Run it with a port."""

import sys

import streamlit
from streamlit import runtime
from streamlit.web import cli

if runtime.exists():
    name = streamlit.text_input("Name")
    if name:
        streamlit.markdown(f"Hello {name}")
    file = streamlit.file_uploader("File")
    if file:
        streamlit.markdown(f"{len(file.getvalue())} bytes")
else:
    sys.argv = ["streamlit", "run", __file__, "--server.port", sys.argv[1], "--server.headless", "true"]
    sys.exit(cli.main())
