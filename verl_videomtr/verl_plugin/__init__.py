"""The edge: everything that touches verl. Importing this package imports nothing.

vLLM's workers import `vllm_cpu` from here before verl itself, so an import of verl at this place would re-enter it.
"""
