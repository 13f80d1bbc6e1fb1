"""The explorer as a Space of the Hugging Face Hub: the page of `nfaug explore`.

Add your own flows to FLOWS, as "owner/name". They need axes and class Gaussians (nfaug fit
--gaussians data).
Visitors can choose among these flows only.
"""

from __future__ import annotations

from nfaug.explore.app import build_app, serve

FLOWS = ["builtin:fashion-mnist", "builtin:rgb32"]

page = build_app(FLOWS)

if __name__ == "__main__":
    serve(page, host="0.0.0.0", port=7860)
