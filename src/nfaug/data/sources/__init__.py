"""The kinds of data that can be opened: a module each, and a line of `nfaug.data.open`."""
