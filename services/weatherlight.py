from esper.weatherlight.server import main

raise SystemExit(main())
