"""Carriers move the bytes of visits: `contract` states what a carrier does, `python` is the one on asyncio."""
