"""The back half: owns one device, turns items into vectors, and knows nothing of HTTP."""
