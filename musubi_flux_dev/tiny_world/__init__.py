"""The tiny world: pictures drawn by code, captions that say what is in them, and a checker of both."""
