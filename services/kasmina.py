from esper.kasmina.server import main

raise SystemExit(main())
