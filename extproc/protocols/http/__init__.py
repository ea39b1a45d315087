"""What an HTTP request and its body say, read strictly: what two readers could read differently is refused."""
