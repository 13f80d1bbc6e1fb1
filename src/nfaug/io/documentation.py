"""Where the documentation is, for help and errors."""

# The address of the site, with a slash at its end, once `[project.urls]` of pyproject.toml has one.
# Until then pages are files of the repository.
_ADDRESS = "docs/"


def documentation(page: str) -> str:
    """The address of a page, such as "reference/settings".

    >>> documentation("index")
    'docs/index.md'
    """
    ending = ".html" if _ADDRESS.startswith("http") else ".md"
    return f"{_ADDRESS}{page}{ending}"
