"""What several formats share. Start with `records.py`: what every reader yields and every writer gets."""
