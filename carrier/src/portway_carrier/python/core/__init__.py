"""What every part of the Python carrier stands on; it imports none of them."""
