"""MotionStream's nodes for ComfyUI: link this folder into its custom_nodes, with motionstream installed beside it.

ComfyUI reads the two names below.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
