from esper.tamiyo.server import main

raise SystemExit(main())
