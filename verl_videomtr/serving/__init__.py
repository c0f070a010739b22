"""Models behind OpenAI-compatible endpoints: how they are asked, what their answers are, and how they play."""
