"""Kernels for self-supervised learning on raw satellite bands; torch and triton are all they need."""

from .ema import update_target_
from .lars import LARS, lars_groups
from .loss import byol_loss
from .philox import philox_words
from .plan import MODALITIES, Plan, ViewSpec, draw_bands, draw_modalities, draw_plan
from .records import DTYPE_CODES, BandRow, band_table, check_records
from .views import render_views

__all__ = [
    "DTYPE_CODES",
    "LARS",
    "MODALITIES",
    "BandRow",
    "Plan",
    "ViewSpec",
    "band_table",
    "byol_loss",
    "check_records",
    "draw_bands",
    "draw_modalities",
    "draw_plan",
    "lars_groups",
    "philox_words",
    "render_views",
    "update_target_",
]
