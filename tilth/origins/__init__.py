"""What an image file says of where it comes from: written into it, signed, and read back. Start with `packet.py`."""
