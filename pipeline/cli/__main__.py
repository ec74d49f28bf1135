"""`python -m pipeline.cli`: the `conveyor` command."""

from pipeline.cli.main import main

if __name__ == "__main__":
    main()
