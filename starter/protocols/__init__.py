"""Folders with images and answers that `tilth eval --protocol` judges a bundle on. Start with `folder.py`."""
