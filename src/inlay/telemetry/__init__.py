"""What the server says of itself: metrics and logs. Never the text of an input."""
