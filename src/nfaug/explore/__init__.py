"""A page in the browser that shows what NFA does to an image: the command `nfaug explore`."""
