"""A Dash page with a callback. Run it with a port."""

import sys

from dash import Dash, Input, Output, dcc, html

app = Dash(__name__)
app.layout = [dcc.Input(id="name"), html.P(id="answer")]


@app.callback(Output("answer", "children"), Input("name", "value"))
def greet(name):
    return f"Hello {name}" if name else ""


app.run(host="127.0.0.1", port=int(sys.argv[1]))
