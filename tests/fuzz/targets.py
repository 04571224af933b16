"""The targets by name."""

from __future__ import annotations

from typing import Final

from . import batch_files, names, prompt_files, registries, replies, workflows
from .bounds import Target

TARGETS: Final = {
    target.name: target
    for target in (
        Target("replies", replies.make, replies.judge),
        Target("prompts", prompt_files.make, prompt_files.judge),
        Target("batches", batch_files.make, batch_files.judge),
        Target("names", names.make, names.judge),
        Target("registry", registries.make, registries.judge),
        Target("workflow", workflows.make_graph, workflows.judge),
        Target("bindings", workflows.make_bindings, workflows.judge),
    )
}
