"""The contact sheet: a directory of pictures as one page, written once or served while a run goes on."""
