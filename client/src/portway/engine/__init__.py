"""What keeps tunnels open: one background thread with one event loop for all tunnels of the process.

Nothing here is imported before the first tunnel is opened. thread.py is the door; tunnels.py holds what is open;
reconnect.py keeps a session attached; attach.py finds it a node; session.py and dialogue.py speak with that node;
lanes.py keeps the data lanes; discovery.py asks the registry.
"""
