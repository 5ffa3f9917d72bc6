"""The back half: owns one device, turns work into answers, and knows nothing of HTTP."""
