from asking_dialects import ask, dialect_workers

__all__ = ["ask", "dialect_workers"]
