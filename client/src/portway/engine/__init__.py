"""What keeps tunnels open: one background thread with one event loop for all tunnels of the process.

Nothing here is imported before the first tunnel is opened. From the outside in: opening.py is one tunnel as the
program's thread sees it, thread.py the engine's thread; tunnels.py holds what is open. reconnect.py keeps a session
attached and bindings.py its tunnels bound (binding.py is one, identity.py who it is); attach.py finds a node.
session.py and dialogue.py speak with that node; lanes.py keeps the data lanes. discovery.py knows what the registries
said, registries.py asks them. failures.py says what refusals mean, retry.py how long to wait.
"""
