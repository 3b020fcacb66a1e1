"""The commands of ``fptt``, a module each: ``run(arguments)`` returns the exit status."""
