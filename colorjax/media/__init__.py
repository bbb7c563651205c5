"""Files in and out: photographs, folders of them, films."""
