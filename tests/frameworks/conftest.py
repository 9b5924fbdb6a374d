"""Shared by the tests of frameworks: nothing leaves this machine, and a model with blocks."""

from __future__ import annotations

import os

# before any of these packages is imported
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
}
