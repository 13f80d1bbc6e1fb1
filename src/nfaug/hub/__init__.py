"""Push flows to, and pull them from, the Hugging Face Hub."""

from nfaug.io.hub import HubError

from .download import pull
from .push import PushPlan, plan_push, push_to_hub

__all__ = ["HubError", "PushPlan", "plan_push", "pull", "push_to_hub"]
