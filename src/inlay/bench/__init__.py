"""The measuring stick: the engine against its ceiling, a server under load, one result against another."""
