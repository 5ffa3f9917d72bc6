"""What clients speak: one file a dialect. Parses its requests, renders its results and its errors."""
