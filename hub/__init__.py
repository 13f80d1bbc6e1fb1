"""Push, pull and list flows on the Hugging Face Hub."""

from nfaug.io.hub import HubError

from .listing import list_flows
from .pull import pull
from .push import PushPlan, plan_push, push_to_hub

__all__ = ["HubError", "PushPlan", "list_flows", "plan_push", "pull", "push_to_hub"]
