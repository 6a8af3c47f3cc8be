from drstool.cli import main

main()
