"""The license identifiers that the Hub accepts in a model card."""

from __future__ import annotations

import difflib

__all__ = ["LICENSES", "check_license"]

# From https://huggingface.co/docs/hub/repositories-licenses
_NAMES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc
lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0
ms-pl ncsa odbl odc-by ofl-1.1 open-mdw openrail openrail++ osl-3.0 other pddl postgresql unknown
unlicense wtfpl zlib
"""
LICENSES = tuple(_NAMES.split())


def check_license(license: str | None) -> None:
    """Check the identifier of a license; None is no license.

    Raises:
        ValueError: The Hub does not know it; the message suggests similar ones.
    """
    if license is None or license in LICENSES:
        return
    similar = difflib.get_close_matches(license.lower(), LICENSES, cutoff=0.4) or ["apache-2.0"]
    raise ValueError(
        f"{license!r} is not a license identifier of the Hub; did you mean {', '.join(similar)}? "
        "Use 'other' for your own terms, and state them with data= (--about-data)"
    )
