"""Push, pull and list flows on the Hugging Face Hub."""

from nfaug.io.hub_errors import HubError

from .listing import FlowEntry, list_flows
from .listing import list_flows as list_models  # the name of the Hub's own client
from .pull import pull
from .push import PushPlan, check_push, plan_push, push_to_hub

__all__ = [
    "FlowEntry",
    "HubError",
    "PushPlan",
    "check_push",
    "list_flows",
    "list_models",
    "plan_push",
    "pull",
    "push_to_hub",
]
