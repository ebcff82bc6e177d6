"""Portway measured beside other ways to publish a local port, and its own figures beside their goals.

`visitors`, `clients` and `forward_once` are programs: they run as processes of their own, so that their CPU time is not
counted and their interpreter locks delay nobody else.
"""
