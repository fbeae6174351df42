"""The six services. They never import each other; they meet in `libs.common` and over HTTP."""
