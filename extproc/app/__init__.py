"""Where every class meets: settings become objects, objects become the processes of `extproc serve`."""
