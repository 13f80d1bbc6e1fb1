"""Push flows to, and pull them from, the Hugging Face Hub."""

from nfaug.io.hub import HubError

from .download import pull
from .push import push_to_hub

__all__ = ["HubError", "pull", "push_to_hub"]
