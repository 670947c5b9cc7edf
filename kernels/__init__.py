"""Kernels for self-supervised learning on raw satellite bands; torch and triton are all they need."""

from .blur import blur_views, draw_sigma, gaussian_blur
from .draws import MODALITIES, Draws, ViewSpec, draw_bands, draw_modalities, draw_views
from .ema import update_target_
from .lars import LARS, lars_groups
from .loss import byol_loss, cosine_loss
from .multi_tensor import uploads_after_capture
from .philox import philox_words
from .pool import max_pool2d
from .records import DTYPE_CODES, BandRow, band_table, check_records
from .select import select_bands, take_bands
from .stem import stem_conv2d
from .views import render_views

__all__ = [
    "DTYPE_CODES",
    "LARS",
    "MODALITIES",
    "BandRow",
    "Draws",
    "ViewSpec",
    "band_table",
    "blur_views",
    "byol_loss",
    "check_records",
    "cosine_loss",
    "draw_bands",
    "draw_modalities",
    "draw_sigma",
    "draw_views",
    "gaussian_blur",
    "lars_groups",
    "max_pool2d",
    "philox_words",
    "render_views",
    "select_bands",
    "stem_conv2d",
    "take_bands",
    "update_target_",
    "uploads_after_capture",
]
