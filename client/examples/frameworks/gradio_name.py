"""A Gradio interface. Run it with a port."""

import sys

import gradio

interface = gradio.Interface(lambda name: f"Hello {name}", "text", "text")
interface.launch(server_name="127.0.0.1", server_port=int(sys.argv[1]))
