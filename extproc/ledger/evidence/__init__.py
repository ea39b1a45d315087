"""What goes into an evidence packet: tables made from records, controls that rest on them, a page of both."""
