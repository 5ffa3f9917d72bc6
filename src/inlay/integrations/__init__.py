"""What frameworks' classes for OpenAI's API leave out: a query's prompt beside a document's. One file a framework."""
