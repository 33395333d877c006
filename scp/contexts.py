"""What the listener accepts: SOP classes, and transfer syntaxes in the order in which it prefers them.

pynetdicom picks the transfer syntax by the acceptor's order (PS3.8 9.3.3.2 leaves it to the acceptor), and so decides
what a sender sends: the compressed ones come first, so that a compressed image is not decompressed for the way,
then explicit before implicit and little before big endian.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2.2"
VERIFICATION = "1.2.840.10008.1.1"

SCREENED_CLASSES = frozenset(
    {CT_IMAGE_STORAGE, ENHANCED_CT_IMAGE_STORAGE, LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE}
)
"""Storage classes whose instances may be screened."""

ACCEPTED_CLASSES = SCREENED_CLASSES | frozenset(
    str(context.abstract_syntax) for context in AllStoragePresentationContexts
)
"""Storage classes that are accepted; those that are not screened are kept and say why."""

TRANSFER_SYNTAXES = (
    str(JPEGLosslessSV1),
    str(JPEGLossless),
    str(JPEGLSLossless),
    str(JPEG2000Lossless),
    str(HTJ2KLossless),
    str(HTJ2KLosslessRPCL),
    str(RLELossless),
    str(JPEGLSNearLossless),
    str(JPEG2000),
    str(HTJ2K),
    str(JPEGExtended12Bit),
    str(JPEGBaseline8Bit),
    str(DeflatedExplicitVRLittleEndian),
    str(ExplicitVRLittleEndian),
    str(ImplicitVRLittleEndian),
    str(ExplicitVRBigEndian),
)
"""Transfer syntaxes that the node can decode, the preferred one first."""


def supported_contexts(requested: Iterable[str]) -> list[PresentationContext]:
    """The contexts to negotiate with for a peer that requests these abstract syntaxes.

    Only what is asked for: building and copying all of some 170 storage classes takes longer than an association.
    """
    wanted = set(requested)
    storage = [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in sorted(wanted & ACCEPTED_CLASSES)]
    # a list may not be empty: with no context at all nothing can be refused by name
    return [build_context(VERIFICATION, list(TRANSFER_SYNTAXES[-3:])), *storage]
