"""Requests as files of lines, answered in the background: durable, and gone on with after any end of the process."""
